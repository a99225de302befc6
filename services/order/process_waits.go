package order

import "github.com/tidemark-dev/tidemark/platform/process"

func waits(*fulfilment, policy) []process.Wait { return nil }
