package main

type trafficCmd struct{}

func (c *trafficCmd) Run(*app) error { return usage("not built yet") }
