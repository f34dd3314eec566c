"""What text and code of strangers may not do: reach a terminal, keep a secret, run on, be imported."""
