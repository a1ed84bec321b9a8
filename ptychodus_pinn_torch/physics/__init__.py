"""Physics in torch: canvas, probe, propagation, forward model and refinement."""
