"""The commands of `heed`, one file a group. service/cli.py gathers them."""
