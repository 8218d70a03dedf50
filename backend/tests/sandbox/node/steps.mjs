// One step of HubSpot's own Node client on the sandbox: node steps.mjs STEP URL. It prints what it saw as JSON.
import { createRequire } from "node:module";

// The folder that it is run in has the client.
const { Client } = createRequire(`${process.cwd()}/`)("@hubspot/api-client");
const [step, url] = process.argv.slice(2);
const client = new Client({ accessToken: "pat-na1-any", basePath: url, numberOfApiCallRetries: 0 });
const { basicApi, batchApi, searchApi } = client.crm.contacts;
const { coreApi, groupsApi } = client.crm.properties;

const upsert = (properties, ...emails) =>
  batchApi.upsert({
    inputs: emails.map((email, i) => ({
      id: email,
      idProperty: "email",
      properties: { email, ...properties },
      objectWriteTraceId: String(i),
    })),
  });

const refused = async (call) => {
  try {
    await call();
  } catch (error) {
    return { code: error.code, body: error.body };
  }
  return null;
};

const steps = {
  async upserts() {
    const first = await upsert({ city: "Kiel" }, "ada@example.com", "bob@example.com");
    const again = await upsert({ city: "Ulm" }, "ada@example.com");
    return { status: first.status, isNew: [...first.results, ...again.results].map((contact) => contact._new) };
  },
  async mixed() {
    const answer = await upsert({}, "ada@example.com", "nonsense");
    return { type: answer.constructor.name, count: answer.numErrors, error: answer.errors[0].context };
  },
  async conflict() {
    const wanted = { properties: { email: "ada@example.com" }, associations: [] };
    const created = await basicApi.create(wanted);
    return { id: created.id, refusal: await refused(() => basicApi.create(wanted)) };
  },
  async throttle() {
    return refused(() => upsert({}, "ada@example.com"));
  },
  async properties() {
    const names = async () => (await coreApi.getAll("contacts")).results.map((property) => property.name);
    const wanted = { name: "score", label: "Score", type: "number", fieldType: "number", groupName: "contactinformation" };
    await coreApi.create("contacts", wanted);
    const created = await names();
    await coreApi.archive("contacts", "score");
    return { created: created.includes("score"), left: (await names()).includes("score") };
  },
  async pages() {
    await upsert({ city: "Kiel" }, ...[0, 1, 2, 3, 4].map((n) => `d${n}@example.com`));
    const contacts = await client.crm.contacts.getAll(2, undefined, ["city"]);
    const found = await searchApi.doSearch({
      filterGroups: [{ filters: [{ propertyName: "email", operator: "CONTAINS_TOKEN", value: "*@example.com" }] }],
      sorts: ["-email"],
      properties: ["email"],
      limit: 3,
    });
    return {
      cities: contacts.map((contact) => contact.properties.city),
      total: found.total,
      after: found.paging.next.after,
      found: found.results.map((contact) => contact.properties.email),
    };
  },
  async merge() {
    const [ada, bob] = (await upsert({}, "ada@example.com", "bob@example.com")).results;
    const merged = await basicApi.merge({ primaryObjectId: ada.id, objectIdToMerge: bob.id });
    await basicApi.archive(merged.id);
    return { isAnother: ![ada.id, bob.id].includes(merged.id) };
  },
  async discovery() {
    const found = [];
    for (const type of ["companies", "deals", "line_items", "0-3"]) {
      found.push((await coreApi.getAll(type)).results.length, (await groupsApi.getAll(type)).results.length);
    }
    found.push((await client.crm.schemas.coreApi.getAll()).results.length);
    return { found, refusal: await refused(() => coreApi.getAll("nonsense")) };
  },
};

console.log(JSON.stringify(await steps[step]()));
