package traffic

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidemark-dev/tidemark/cmd/tidemark/client"
	commercev1 "github.com/tidemark-dev/tidemark/proto/commerce/v1"
	orderv1 "github.com/tidemark-dev/tidemark/proto/order/v1"
)

const currency = "EUR"

// Tokens by which the simulated payment provider knows what to do.
const (
	declined   = "tok_decline"
	answerLost = "tok_timeout" // the first answer gets lost
	twice      = "tok_duplicate"
	slow       = "tok_slow_300"
)

var articles = []struct {
	sku, title string
	price      int64 // cents
}{
	{"mug", "Mug, blue", 1250}, {"poster", "Poster, harbour at night", 800}, {"lamp", "Desk lamp", 4590},
	{"chair", "Chair, oak", 12900}, {"kettle", "Kettle, 1.7 l", 3499}, {"plant", "Monstera, 60 cm", 2995},
}

var (
	warehouses = []string{"berlin", "lisbon", "warsaw"}
	towns      = []string{"Hamburg", "Bremen", "Leipzig", "Trier", "Passau"}
	firstNames = []string{"Ada", "Bo", "Chi", "Dan", "Eva", "Femi", "Gus", "Hana"}
)

// visit is what one customer does.
type visit struct {
	place *orderv1.PlaceOrderRequest
	// then is what follows after a while: "", "cancel", "hold" or "move".
	then  string
	after time.Duration
}

// customers lets visits begin at Poisson arrival times, whatever becomes of
// earlier ones.
func customers(ctx context.Context, fleet *client.Fleet, options Options) error {
	seed := options.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	random := rand.New(rand.NewPCG(seed, 1))
	slots := make(chan struct{}, maxCustomers)
	var visits sync.WaitGroup
	defer visits.Wait()
	for at := time.Now(); ; {
		at = at.Add(time.Duration(random.ExpFloat64() / options.Rate * float64(time.Second)))
		if !sleep(ctx, time.Until(at)) {
			return nil
		}
		v := newVisit(random, options)
		select {
		case slots <- struct{}{}:
		default:
			options.Count.TurnedAway.Add(1)
			continue
		}
		visits.Go(func() {
			defer func() { <-slots }()
			v.make(ctx, fleet, options.Count)
		})
	}
}

// newVisit draws what a customer does. Of 100 visits about 25 buy more than one
// article, 20 from several warehouses, 15 pay with a voucher and a card, 4 are
// declined, 5 cancel, 3 are held for a while, 3 move house, and 4 have a payment
// provider that is slow, answers twice, or whose answer gets lost.
func newVisit(random *rand.Rand, options Options) visit {
	person := random.IntN(options.Customers) + 1
	name := firstNames[person%len(firstNames)]
	request := &orderv1.PlaceOrderRequest{
		RequestId: uuid.NewString(), Actor: "customer",
		CustomerId: fmt.Sprintf("customer-%d", person), Fulfilment: commercev1.Fulfilment_FULFILMENT_MANAGED, Channel: "web",
		ShippingFee: euro(490), PromisedAt: timestamppb.New(time.Now().Add(72 * time.Hour)),
		Contact: &commercev1.Contact{Name: fmt.Sprintf("%s Example %d", name, person), Email: fmt.Sprintf("%s.%d@example.com", name, person)},
		Address: address(random, person),
	}
	lines := 1
	if random.IntN(100) < 25 {
		lines = 2 + random.IntN(3)
	}
	warehouse := random.IntN(len(warehouses))
	split := random.IntN(100) < 20
	total := request.GetShippingFee().GetAmount()
	for n := range lines {
		if split {
			warehouse = (warehouse + 1) % len(warehouses)
		}
		article := articles[random.IntN(len(articles))]
		quantity := 1 + random.IntN(3)
		total += int64(quantity) * article.price
		request.Lines = append(request.Lines, &orderv1.OrderLine{
			LineId: strconv.Itoa(n + 1), Sku: article.sku, Title: article.title, Quantity: int32(quantity),
			UnitPrice: euro(article.price), Warehouse: warehouses[warehouse],
		})
	}
	card := &orderv1.PlannedPayment{Method: commercev1.PaymentMethod_PAYMENT_METHOD_CARD, Amount: euro(total)}
	request.PaymentPlan = []*orderv1.PlannedPayment{card}
	if random.IntN(100) < 15 {
		voucher := min(1000, total-1)
		card.Amount = euro(total - voucher)
		request.PaymentPlan = []*orderv1.PlannedPayment{
			{Method: commercev1.PaymentMethod_PAYMENT_METHOD_VOUCHER, Amount: euro(voucher)}, card,
		}
	}
	v := visit{place: request, after: time.Duration(random.Int64N(int64(2 * options.Pace)))}
	switch draw := random.IntN(100); {
	case draw < 4:
		card.Reference = declined
	case draw < 9:
		v.then = "cancel"
	case draw < 12:
		v.then = "hold"
	case draw < 15:
		v.then = "move"
	case draw < 17:
		card.Reference = slow
	case draw < 18:
		card.Reference = twice
	case draw < 19:
		card.Reference = answerLost
	}
	return v
}

func (v visit) make(ctx context.Context, fleet *client.Fleet, count *Count) {
	placed, ok := try(ctx, count, func(ctx context.Context) (*orderv1.PlaceOrderResponse, error) {
		return fleet.Orders.PlaceOrder(ctx, v.place)
	})
	if !ok {
		return
	}
	count.Placed.Add(1)
	id := placed.GetOrder().GetOrderId()
	if v.then == "" || !sleep(ctx, v.after) {
		return
	}
	switch v.then {
	case "cancel":
		request := &orderv1.CancelOrderRequest{
			RequestId: uuid.NewString(), Actor: "customer", OrderId: id, Reason: orderv1.CancelReason_CANCEL_REASON_CUSTOMER,
		}
		try(ctx, count, func(ctx context.Context) (*orderv1.CancelOrderResponse, error) {
			return fleet.Orders.CancelOrder(ctx, request)
		})
	case "move":
		request := &orderv1.AmendOrderRequest{
			RequestId: uuid.NewString(), Actor: "customer", OrderId: id, Note: "moved house",
			Address: &commercev1.Address{Line1: "New Street 1", PostalCode: "10115", City: "Berlin", Country: "DE"},
		}
		try(ctx, count, func(ctx context.Context) (*orderv1.AmendOrderResponse, error) {
			return fleet.Orders.AmendOrder(ctx, request)
		})
	case "hold":
		request := &orderv1.HoldOrderRequest{
			RequestId: uuid.NewString(), Actor: "operator:traffic", OrderId: id, Reason: "address looks odd",
		}
		if _, held := try(ctx, count, func(ctx context.Context) (*orderv1.HoldOrderResponse, error) {
			return fleet.Orders.HoldOrder(ctx, request)
		}); !held || !sleep(ctx, 2*v.after) {
			return
		}
		release := &orderv1.ReleaseOrderRequest{RequestId: uuid.NewString(), Actor: "operator:traffic", OrderId: id, Note: "customer called back"}
		try(ctx, count, func(ctx context.Context) (*orderv1.ReleaseOrderResponse, error) {
			return fleet.Orders.ReleaseOrder(ctx, release)
		})
	}
}

func address(random *rand.Rand, person int) *commercev1.Address {
	return &commercev1.Address{
		Recipient: fmt.Sprintf("%s Example %d", firstNames[person%len(firstNames)], person),
		Line1:     fmt.Sprintf("Long Street %d", 1+random.IntN(99)), PostalCode: fmt.Sprintf("%05d", 10000+person),
		City: towns[person%len(towns)], Country: "DE",
	}
}

func euro(cents int64) *commercev1.Money {
	return &commercev1.Money{Amount: cents, Currency: currency}
}
