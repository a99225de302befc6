// Command cmd runs the payment service.
package main

import (
	"github.com/tidemark-dev/tidemark/platform/lifecycle"
	"github.com/tidemark-dev/tidemark/services/payment"
)

func main() {
	lifecycle.Main("tidemark-payment", "The payment service decides about payments.", payment.Run)
}
