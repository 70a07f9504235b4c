"""The evaluation of drift monitoring: what was promised, measured."""
