// @ts-check
import { API, ApiError, Client } from "./client.js";

/** @typedef {import("./client.js").RecommendedItem} RecommendedItem */

const api = new Client(API);
const N = 6;

/** @type {Map<string, string>} The basket: titles by id. */
const basket = new Map();

/** The customer of whom nothing is known is new with each visit. */
const visitor = `visitor-${crypto.randomUUID()}`;

/** @param {string} selector @returns {any} */
const find = (selector) => document.querySelector(selector);

const customer = () => find("#customer").value;

/** @param {{item_id: string, title: string | null}} item */
const titleOf = (item) => item.title ?? item.item_id;

/**
 * Show items, each with a line below it.
 * @param {Element} list
 * @param {Array<{item_id: string, title: string | null}>} items
 * @param {(item: any) => string} below
 */
function show(list, items, below) {
  list.replaceChildren(
    ...items.map((item) => {
      const card = find("#card").content.cloneNode(true);
      const link = card.querySelector("a");
      link.textContent = titleOf(item);
      link.href = `#${encodeURIComponent(item.item_id)}`;
      card.querySelector("small").textContent = below(item);
      return card;
    }),
  );
}

/** @param {{attributes: Record<string, any>}} item */
function about(item) {
  return Object.values(item.attributes).flat().join(" · ");
}

/** Say which of the customer's own films speak for an item. @param {RecommendedItem} item */
function because(item) {
  const liked = (item.reasons ?? []).filter((reason) => reason.contribution > 0).slice(0, 2);
  if (!liked.length) return "Popular with everybody";
  return `Because you liked ${liked.map(titleOf).join(" and ")}`;
}

async function showForYou() {
  const { items } = await api.get_recommendations(customer(), { n: N, explain: true });
  show(find("#for-you .items"), items, because);
}

/** @param {string} itemId */
async function showProduct(itemId) {
  const [{ item }, similar] = await Promise.all([
    api.get_item(itemId),
    api.find_similar_items(itemId, { n: N }),
  ]);
  const product = find("#product");
  product.querySelector("h2").textContent = titleOf(item);
  product.querySelector(".about").textContent = about(item);
  product.querySelector("button").onclick = () => guarded(() => put(item));
  show(product.querySelector(".items"), similar.items, about);
  product.hidden = false;
  find("#found").hidden = true;
  await tell(itemId, "click");
}

async function showBasket() {
  find("#basket .basket").replaceChildren(
    ...[...basket].map(([itemId, title]) => {
      const line = document.createElement("li");
      const remove = document.createElement("button");
      remove.textContent = "Remove";
      remove.onclick = () => guarded(async () => {
        basket.delete(itemId);
        await tell(itemId, "watchlist_remove");
        await showBasket();
      });
      line.append(`${title} `, remove);
      return line;
    }),
  );
  find("#basket h3").hidden = !basket.size;
  const item_ids = [...basket.keys()];
  const fitting = basket.size ? await api.find_similar_to_several({ item_ids, n: N }) : { items: [] };
  show(find("#basket .items"), fitting.items, about);
}

/** @param {{item_id: string, title: string | null}} item */
async function put(item) {
  basket.set(item.item_id, titleOf(item));
  await tell(item.item_id, "watchlist_add");
  await showBasket();
}

/**
 * Say what the customer did; what is recommended follows at once.
 * @param {string} item_id @param {string} interaction_type
 */
async function tell(item_id, interaction_type) {
  const event_id = crypto.randomUUID();
  await api.create_interactions([{ event_id, user_id: customer(), item_id, interaction_type }]);
  await showForYou();
}

async function search() {
  const q = new FormData(find("#search")).get("q");
  const found = find("#found");
  found.hidden = !q;
  if (q) {
    const { items } = await api.list_items({ q: String(q), available: true, limit: 2 * N });
    show(found.querySelector(".items"), items, about);
  }
}

/** Do something, and show why it failed if it does. @param {() => Promise<void>} task */
async function guarded(task) {
  const problem = find("#problem");
  problem.hidden = true;
  try {
    await task();
  } catch (error) {
    problem.textContent = error instanceof ApiError
      ? error.message
      : `${API} does not answer: is RECKEEPER_CORS_ORIGINS=${location.origin} set there?`;
    problem.hidden = false;
  }
}

async function begin() {
  const { sample_users } = await api.get_demo();
  for (const user of [...sample_users, visitor]) {
    find("#customer").add(new Option(user === visitor ? "New visitor" : user, user));
  }
  await showForYou();
  await open();
}

async function open() {
  const itemId = decodeURIComponent(location.hash.slice(1));
  if (itemId) await showProduct(itemId);
}

find("#customer").onchange = () => guarded(showForYou);
find("#search").onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  guarded(search);
};
window.onhashchange = () => guarded(open);
guarded(begin);
