"""The code that attaches a method to a model. You can understand the methods without reading this code.

- `kinds`, `layers`, `forward`, `tracing`, `graph`, `coverage`: which layers of a model are sparse, and which feed each
  other.
- `weights`, `linear`: how links are stored, either as a dense weight with a mask or as only the links.
- `network`: all sparse layers together. `initial`: the links that a run starts from. `warm_start`: a start from a
  trained model.
- `gradients`, `watch`, `guard`: they watch what happens between two steps, and raise an error if the run cannot
  continue.
- `progress`: the state of a run, saved and loaded. `compaction`: a smaller model without inactive neurons.
- `distributed`, `sharding`: several processes that train one model.
"""
