"""A discrete-event model of synchronous training: costs and machines, events, the simulation, the fit of the costs."""
