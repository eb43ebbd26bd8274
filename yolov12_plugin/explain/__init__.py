"""What a layer of a model computes, as a picture (Figure 5)."""
