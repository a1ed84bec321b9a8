"""Everything that knows the model and controller of Ptychodus."""
