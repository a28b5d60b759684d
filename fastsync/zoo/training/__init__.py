"""How the embedded priors are trained: one file a stage."""
