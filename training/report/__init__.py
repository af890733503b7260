"""The pages for people: the evaluation report and the audit."""
