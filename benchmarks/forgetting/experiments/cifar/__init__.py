"""CIFAR-10, then CIFAR-100: the paper's Tables 2, 6, 8, 9 and 10 from the public archives' images."""
