"""Each check is taken out in turn, and a test must notice: a check that nobody would miss is no check.

`python -m tests.mutation verify/quote.py` takes the module's checks out one after the other: each `raise`
becomes nothing, each `return False` the opposite, and each part of a condition is left out. With `--steps`
it switches off one step of the checklist after the other. What survives is written down with a reason in
`equivalent.txt`, or it is a missing test.
"""
