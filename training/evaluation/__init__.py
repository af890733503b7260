"""How good it is: answers, metrics, calibration, doubtful labels, and where it looked."""
