// Command cmd runs the shipment service.
package main

import (
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/services/shipment"
)

func main() {
	lifecycle.Main("tidemark-shipment", "The shipment service decides about shipments.", shipment.Run)
}
