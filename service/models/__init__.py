"""The versions in memory: loaded, proven, swapped, tried beside one another and let go.

`ModelManager` is what the rest of the server sees. It has a `ModelState` for each model: which
`LoadedVersion` is live, which one was before, and the `Trial` of a candidate. `Follower`, when the
registry has changed, and `Operations`, when a caller wants a change, have the `LoadScheduler` load
a version with the `Loader`, and then `Swaps` gives it its place.
"""
