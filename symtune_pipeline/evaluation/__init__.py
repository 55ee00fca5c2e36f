"""What a model is asked, what it predicts, and how that is counted."""
