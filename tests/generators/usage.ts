/* What the tests compile against the generated types: a client that adds, reads, buys and follows the feed. */
import type { components, operations, paths } from "./openapi";

type Json<T> = T extends { content: { "application/json": infer Body } } ? Body : never;
type Answer<Name extends keyof operations, Status extends keyof operations[Name]["responses"]> = Json<
  operations[Name]["responses"][Status]
>;

/* An answer of a mutation is one type, not a choice between several. */
const added: Answer<"AddLine", 201> = { version: 1 };
export const subtotal: string | undefined = added.summary?.subtotal;
export const lineTotal: string | undefined = added.line?.line_total;
export const whole: components["schemas"]["Line"][] | undefined = added.items;

/* Nullable members are a type or null; a query parameter is never null. */
export const item: components["schemas"]["AddItem"] = { sku: "MUG", quantity: 1, product_id: null };
export const query: operations["ListAllOrders"]["parameters"]["query"] = { status: "paid", limit: 10 };
// @ts-expect-error A query parameter cannot be null.
export const nullQuery: operations["ListAllOrders"]["parameters"]["query"] = { status: null };

/* The key of a checkout has to be sent. */
export const headers: operations["BeginCheckout"]["parameters"]["header"] = { "Idempotency-Key": "k" };
// @ts-expect-error Without it the document is broken.
export const noHeaders: operations["BeginCheckout"]["parameters"]["header"] = {};

/* Who is told to wait is told how long. */
export const wait: operations["AddLine"]["responses"][503]["headers"]["Retry-After"] = 1;
export type Add = paths["/v1/cart/items"]["post"];
