"""What every plugin has to stand: one small check for each promise of the contract.

The checks need no test runner: plugins/testing.py makes a test class of them in one line,
and `heed plugins check` runs those that need no test data. A check raises Broken with what
the plugin does, and NotChecked with what to give so that it can be run.
"""
