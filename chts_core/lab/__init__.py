"""What the notebooks stand on: data, models, training, records, figures and widgets."""
