"""Parts of the additive shape model: lattice -> modes, template -> registration -> population; then pull-back and effects."""
