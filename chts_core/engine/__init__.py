"""The code that attaches a method to a model. You can understand the methods without reading this code.

- `kinds`, `layers`, `forward`, `tracing`, `graph`, `coverage`: which layers of a model are sparse, and how they are
  connected.
- `weights`, `linear`: the storage of the weights, either dense with a mask or only for the existing links.
- `network`: all sparse layers together. `initial`: the links that a run starts from. `warm_start`: a start from a
  trained model.
- `gradients`, `watch`, `guard`: they watch what happens between two steps, and raise an error if the run cannot
  continue.
- `progress`: saves and loads the state of a run. `compaction`: a smaller model without inactive neurons.
- `distributed`, `sharding`: several processes that train one model.
"""
