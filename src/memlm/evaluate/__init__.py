"""What a trained model is worth: loss, recall, generated text, use of the memory, and the statistics over seeds."""
