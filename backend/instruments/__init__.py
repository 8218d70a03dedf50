"""What benchmarks and tests look at the product with."""
