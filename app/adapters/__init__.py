"""One module per outside system, thin: translate, call, translate. Only these import its library."""
