"""The law of a softmax over many atoms: its prox at every temperature, as operators with derivatives."""
