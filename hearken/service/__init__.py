"""The service on one machine: its processes, what each is told, and who watches over them."""
