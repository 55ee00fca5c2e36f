"""What a model is asked, what it predicts, and how that is counted."""

INTERRUPTED = "The evaluation was interrupted; starting it again goes on where it was."
