// Command cmd runs the order service.
package main

import (
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/services/order"
)

func main() {
	lifecycle.Main("tidemark-order", "The order service decides about orders.", order.Run)
}
