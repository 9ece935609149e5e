"""Running the same manifest without a cluster: pods are processes."""
