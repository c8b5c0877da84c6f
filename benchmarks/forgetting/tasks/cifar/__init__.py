"""CIFAR-10 and CIFAR-100: what their images, networks and old models need."""
