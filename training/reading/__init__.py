"""Files and folders as tables: what is in them as it is written, and where each row stands in the user's file.

One reader for all commands: `sources` finds the files, `formats` and its `readers` read them, `kinds` makes of a
column what a task wants of it, and names column and line of what does not fit.
"""
