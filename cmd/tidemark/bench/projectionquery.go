package bench

import "context"

// QueryResult is what a query costs.
type QueryResult struct{}

func (b *copyBed) queries(context.Context) (*QueryResult, error) { return nil, nil }

// FreshnessFloors is how soon a commit is visible.
type FreshnessFloors struct{}

func (b *copyBed) freshness(context.Context) (*FreshnessFloors, error) { return nil, nil }
