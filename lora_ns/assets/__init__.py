"""What the package carries with it: the small base model `nano`, and the rows of the quickstart that fine-tunes it."""
