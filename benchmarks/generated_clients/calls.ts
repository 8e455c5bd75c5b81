// Call every operation by the generated types; `generated_clients` runs this.

import createClient from "openapi-fetch";
import type { components, operations, paths } from "./api.js";

declare const process: { argv: string[] };

type Schemas = components["schemas"];

const client = createClient<paths>({ baseUrl: process.argv[2] });

/** Give what was answered, which an error is not. */
function given<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) {
    throw new Error(`${answer.response.url}: ${JSON.stringify(answer.error)}`);
  }
  return answer.data;
}

function holds(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

const one: Schemas["Interaction"] = { user_id: "ts", item_id: 1, interaction_type: "click" };
const at = (version: number) => ({ params: { path: { version } } });
const on = (user_id: string, item_id: string) => ({ params: { path: { user_id, item_id } } });
const of = (user_id: string) => ({ params: { path: { user_id } } });
const item = (item_id: string) => ({ params: { path: { item_id } } });
const job = (job_id: number) => ({ params: { path: { job_id } } });
const asText = { parseAs: "text" } as const;

const sent = {
  body: "user_id,item_id\nf1,1\nf2,\n",
  bodySerializer: (body: unknown) => String(body),
  headers: { "Content-Type": "application/octet-stream" },
};

let imported = 0;
let erasure = 0;
let bundle: Blob = new Blob();
let taken = 0;

// An operation that is missing here, or one that there is none of, does not compile.
const calls: { [name in keyof operations]: () => Promise<unknown> } = {
  create_interactions: async () => {
    const sent = given(await client.POST("/user_interactions", { body: one }));
    const accepted: number = sent.accepted;
    holds(accepted === 1, "one was accepted");
    const many = Array.from({ length: 40 }, (_, user) =>
      Array.from({ length: 8 }, (_, step) => ({
        ...one,
        user_id: `u${user}`,
        item_id: (user * (step + 1)) % 17,
      })),
    ).flat();
    return given(await client.POST("/user_interactions", { body: many }));
  },
  list_interactions: async () =>
    given(await client.GET("/user_interactions/{user_id}", of("ts"))).interactions[0].occurred_at,
  add_to_watchlist: async () =>
    given(await client.POST("/watchlist/{user_id}/{item_id}", on("ts", "2"))).accepted,
  get_watchlist: async () =>
    given(await client.GET("/watchlist/{user_id}", of("ts"))).items[0].added_at,
  remove_from_watchlist: async () =>
    given(await client.DELETE("/watchlist/{user_id}/{item_id}", on("ts", "2"))).accepted,
  list_recipes: async () => given(await client.GET("/recipes")).recipes[0].settings,
  retrain: async () => {
    const made = given(await client.POST("/retrain", {}));
    holds("version" in made && made.details.n_users === 41, "a version was made");
    const query = { wait: false };
    const body = { recipe: "svd", settings: { n_components: 4 }, tune: false };
    const started = given(await client.POST("/retrain", { params: { query }, body }));
    if (!("job" in started)) throw new Error("a job was asked for");
    const { job_id } = started.job;
    return given(await client.GET("/jobs/{job_id}/stream", { ...job(job_id), ...asText }));
  },
  get_job: async () => {
    const told = given(await client.GET("/jobs/{job_id}", job(2))).job;
    const version: number | null = told.version;
    holds(version === 2 && told.status === "succeeded", "job 2 made version 2");
  },
  follow_job: async () => {
    const text: string = given(
      await client.GET("/jobs/{job_id}/stream", { ...job(1), ...asText }),
    );
    holds(text.includes("event: end"), "the stream ended");
  },
  evaluate: async () =>
    given(await client.POST("/evaluations", { params: { query: { wait: false } } })),
  finish_job: async () => (await client.POST("/jobs/{job_id}/finish", job(3))).response.status,
  cancel_job: async () => {
    const body = { reason: "enough" };
    return (await client.POST("/jobs/{job_id}/cancel", { ...job(3), body })).response.status;
  },
  list_jobs: async () => {
    const page = given(await client.GET("/jobs", { params: { query: { limit: 1 } } }));
    const next: string | null = page.next_scheduled_at;
    return next;
  },
  list_models: async () => {
    const [model] = given(await client.GET("/models")).models;
    const share: string = model.explained_variance;
    holds(share.endsWith("%"), "a share in percent");
  },
  get_model: async () => {
    const { error } = await client.GET("/models/{version}", at(99));
    holds(error?.code === "not_found", "there is no version 99");
    return given(await client.GET("/models/{version}", at(1))).model.files[0].bytes;
  },
  list_timeline: async () => {
    const version: number | null = given(await client.GET("/timeline")).rollback_version;
    holds(version === 1, "a roll back activates version 1");
  },
  roll_back: async () =>
    given(await client.POST("/models/rollback", { body: { reason: "back" } })).model.status,
  activate_model: async () =>
    given(await client.POST("/models/{version}/activate", at(2))).model.verdict?.versus_active,
  pin_model: async () => {
    const until = new Date(Date.now() + 86_400_000).toISOString();
    const answer = await client.POST("/models/{version}/pin", { ...at(1), body: { until } });
    return given(answer).model.pinned_until;
  },
  unpin_model: async () => given(await client.DELETE("/models/{version}/pin", at(1))).model.pinned,
  update_model: async () => {
    const note: string | null = "seen by generated types";
    return given(await client.PATCH("/models/{version}", { ...at(1), body: { note } }));
  },
  compare_models: async () => {
    const params = { path: { version: 1, other: 2 }, query: { k: 5 } };
    const compared = given(await client.GET("/models/{version}/compare/{other}", { params }));
    return compared.overlap?.mean;
  },
  download_model: async () => {
    const answer = await client.GET("/models/{version}/download", { ...at(1), parseAs: "blob" });
    bundle = given(answer) as unknown as Blob;
  },
  download_pickle: async () => {
    const answer = await client.GET("/models/{version}/pickle", { ...at(1), parseAs: "blob" });
    return (given(answer) as unknown as Blob).size;
  },
  import_model: async () => {
    const answer = await client.POST("/models/import", {
      body: bundle as unknown as string,
      bodySerializer: (body) => body,
      headers: { "Content-Type": "application/zip" },
    });
    taken = given(answer).model.version;
  },
  delete_model: async () => given(await client.DELETE("/models/{version}", at(taken))).version,
  get_policy: async () => given(await client.GET("/policy")).policy.promotion.manual,
  set_policy: async () => {
    const body: Schemas["PolicyChange"] = { margin: 0.05 };
    holds(given(await client.PUT("/policy", { body })).policy.margin === 0.05, "the margin");
  },
  list_policies: async () => given(await client.GET("/policy/history")).policies[0].updated_at,
  list_audit_entries: async () => given(await client.GET("/audit")).entries[0].details,
  verify_audit: async () => {
    const ok: boolean = given(await client.GET("/audit/verify")).ok;
    holds(ok, "the trail is whole");
  },
  get_recommendations: async () => {
    const list = given(await client.GET("/recommendations/{user_id}", of("ts")));
    const strategy: "model" | "fold_in" | "popular" = list.strategy;
    const scores: number[] = list.items.map((item) => item.score);
    return [strategy, scores];
  },
  recommend_from_history: async () => {
    const body: Schemas["HistoryRequest"] = { history: ["1", 2], n: 3 };
    return given(await client.POST("/recommendations", { body })).items.length;
  },
  recommend_to_users: async () => {
    const body: Schemas["BatchRequest"] = { user_ids: ["ts", 2], n: 3, explain: true };
    const lists = given(await client.POST("/recommendations/batch", { body })).lists;
    const rests: (number | null | undefined)[] = lists.map((list) => list.items[0]?.rest);
    holds(lists.length === 2, "a list for each");
    return rests;
  },
  find_similar_items: async () => {
    const params = { path: { item_id: "1" }, query: { kind: "next" as const, n: 3 } };
    const kind: "alike" | "next" = given(await client.GET("/items/{item_id}/similar", { params })).kind;
    return kind;
  },
  find_similar_to_several: async () => {
    const body: Schemas["SimilarRequest"] = { item_ids: ["1", 2], where: {} };
    const found = given(await client.POST("/items/similar", { body }));
    const strategy: "model" | "categories" | "popular" = found.strategy;
    return [strategy, found.items.map((each) => each.score)];
  },
  store_items: async () => {
    const rows: Schemas["ItemBatch"] = [
      { item_id: "film", title: "A film", categories: ["drama"] },
      { item_id: 7, available: false },
    ];
    return given(await client.POST("/items", { body: rows })).created;
  },
  put_item: async () => {
    const body: Schemas["ItemContent"] = { title: "Another", attributes: { price: 4.5 } };
    const put = given(await client.PUT("/items/{item_id}", { ...item("film"), body })).item;
    holds(put.categories.length === 0, "what is not said is gone");
  },
  patch_item: async () => {
    const body: Schemas["ItemContent"] = { available: false };
    const patched = given(await client.PATCH("/items/{item_id}", { ...item("film"), body })).item;
    holds(patched.title === "Another" && !patched.available_now, "the rest stays");
  },
  get_item: async () => given(await client.GET("/items/{item_id}", item("film"))).item.title,
  list_items: async () => {
    const params = { query: { q: "another", limit: 5 } };
    const page = given(await client.GET("/items", { params }));
    const next: string | null = page.next;
    return [next, page.items.map((each) => each.item_id)];
  },
  delete_item: async () => given(await client.DELETE("/items/{item_id}", item("film"))).item_id,
  merge_users: async () => {
    const body: Schemas["MergeRequest"] = { from: "visitor" };
    return given(await client.POST("/users/{user_id}/merge", { ...of("ts"), body })).interactions;
  },
  export_user: async () =>
    given(await client.GET("/users/{user_id}/export", of("ts"))).interactions.length,
  erase_user: async () => {
    const erased = given(await client.DELETE("/users/{user_id}", of("ts"))).erasure;
    holds(erased.is_genuine, "a receipt is signed");
    erasure = erased.erasure_id;
  },
  get_erasure: async () => {
    const params = { path: { erasure_id: erasure } };
    return given(await client.GET("/erasures/{erasure_id}", { params })).erasure.subject;
  },
  list_erasures: async () => given(await client.GET("/erasures")).erasures.length,
  preview_import: async () => {
    const looked = given(await client.POST("/imports/preview", sent));
    const at: string | null = looked.rows[0].occurred_at;
    holds(looked.form.delimiter === "," && at === null, "a file is looked at");
  },
  create_import: async () => {
    const params = { query: { filename: "shop.csv", user_column: "user_id" } };
    const begun = given(await client.POST("/imports", { ...sent, params })).import;
    imported = begun.import_id;
  },
  get_import: async () => {
    const params = { path: { import_id: imported } };
    for (;;) {
      const told = given(await client.GET("/imports/{import_id}", { params })).import;
      if (told.status !== "running") return told.refusals[0].examples[0].line;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  },
  list_imports: async () => given(await client.GET("/imports")).imports[0].rows_per_second,
  get_refused: async () => {
    const params = { path: { import_id: imported } };
    const rows: string = given(
      await client.GET("/imports/{import_id}/refused", { params, ...asText }),
    );
    holds(rows.includes("shop.csv,3,item_id"), "what was refused is listed");
  },
  list_latest: async () => {
    const [latest] = given(await client.GET("/interactions/latest")).interactions;
    holds(latest.user_id === "f1", "the import came last");
  },
  summarize_interactions: async () =>
    given(await client.GET("/interactions/summary", { params: { query: { among: 10 } } })).types,
  list_dead_letters: async () =>
    given(await client.GET("/interactions/dead_letters")).letters.map((each) => each.reason),
  undo_import: async () => {
    const params = { path: { import_id: imported } };
    const undone = given(await client.DELETE("/imports/{import_id}", { params }));
    holds(undone.interactions === 1, "it is undone");
  },
  create_key: async () => {
    const body: Schemas["KeyRequest"] = { name: "types", role: "admin" };
    const secret: string = given(await client.POST("/keys", { body })).secret;
    client.use({
      onRequest: ({ request }) => {
        request.headers.set("Authorization", `Bearer ${secret}`);
      },
    });
  },
  get_access: async () => {
    const role: "viewer" | "ingest" | "recommend" | "operator" | "admin" | null = given(
      await client.GET("/access"),
    ).role;
    holds(role === "admin", "the key is an administrator's");
  },
  list_keys: async () => given(await client.GET("/keys")).keys[0].last_used_at,
  revoke_key: async () =>
    given(await client.DELETE("/keys/{key_id}", { params: { path: { key_id: "types" } } })).key
      .revoked_by,
  get_demo: async () => given(await client.GET("/demo")).sample_users.length,
  delete_demo: async () => given(await client.DELETE("/demo")).versions,
  get_liveness: async () => given(await client.GET("/health/live")).status,
  get_readiness: async () => given(await client.GET("/health/ready")).problems.length,
  get_metrics: async () => given(await client.GET("/metrics", asText)).split("\n").length,
};

for (const [name, call] of Object.entries(calls)) {
  await call().catch((error: unknown) => {
    throw new Error(`${name}: ${String(error)}`);
  });
}
console.log(`${Object.keys(calls).length} operations called by their types`);
