"""Where the gradient goes: the recorder, the indices and the verdict."""
