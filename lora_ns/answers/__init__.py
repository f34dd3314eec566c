"""Using a trained model: reopen it, generate text, predict labels, and measure its answers."""
