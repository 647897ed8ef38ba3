"""All of Flux on one machine: the supervisor behind `flux up`, the demo site, and the doctor."""
