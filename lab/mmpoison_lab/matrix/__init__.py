"""A matrix of attacks against defences: its plan, its measurements and its pages."""
