"""What a trained model says: it is opened, it answers and labels, and its answers are measured."""
