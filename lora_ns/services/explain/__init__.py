"""`explain`: why a run diverged, broke or learned nothing, found by replaying its steps with one setting changed."""
