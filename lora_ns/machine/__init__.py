"""The hardware of this machine and the state of its environment."""
