"""What a program is: expressions, the tensor graph, the TensorFunction and the loop IR."""
