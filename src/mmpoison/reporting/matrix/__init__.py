"""Tables, heat maps and pages of a matrix of attacks against defences."""
