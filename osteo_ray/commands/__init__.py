"""One module a command: its typed job and one function, a job in, lines to print out.

The command line, `ray job submit` and a notebook all call these. A job's YAML holds its paths too, so that
`python jobs/screen.py --config screen.yaml` is all that a cluster needs.
"""
