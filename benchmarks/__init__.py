"""How fast fed-rebel is, each figure beside the bare work measured in the same run: `make bench`."""
