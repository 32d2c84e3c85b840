"""What a training configuration comes to, told without training: numbers, doubts, costs."""
