"""The functions behind `import mmpoison`: load, poison, filter, finetune, evaluate, sterilize, scan, run.

The command line calls them too. Each takes names, paths or objects, and returns an object with a short repr.
"""
