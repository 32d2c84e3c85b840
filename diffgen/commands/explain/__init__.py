"""What a training configuration comes to, shown without training: numbers, warnings, costs."""
