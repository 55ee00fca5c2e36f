"""What a language model is here: its weights, how it is loaded, how it attends, what it costs."""
